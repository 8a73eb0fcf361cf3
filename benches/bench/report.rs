use std::path::Path;
use super::measure::*;
pub struct Sizes(u64,u64);
impl Sizes { pub fn of(a:&str,b:&str)->Self { Self(std::fs::metadata(a).map_or(0,|m|m.len()),std::fs::metadata(b).map_or(0,|m|m.len())) } }
fn q(v:&[f64])->String{ let mut v=v.to_vec(); v.sort_by(f64::total_cmp); let at=|p:usize| v[(v.len()-1)*p/100]; format!("{:.3} ({:.3}-{:.3})",at(50),at(10),at(90)) }
pub fn write(c:&[Contender],f:&Figures,s:&[Sizes;2],_d:&Path){
 println!();
 println!("handshake {} post {}",q(&f.handshakes),q(&f.post));
 let mut show=|n:&str,st:&Vec<Starts>| for (c,s) in c.iter().zip(st){ println!("{n} {:8} cold {} ready {} warm {} ccpu {} wcpu {} peak {}",c.name,q(&s.cold),q(&s.ready),q(&s.warm),q(&s.cold_cpu),q(&s.warm_cpu),q(&s.peak_mib)); };
 show("full",&f.full_speed);
 for (n,st) in &f.limited { show(n,st); }
 for (l,v) in &f.latencies { for (c,v) in c.iter().zip(v){ println!("{l} {} {}",c.name,q(v)); } }
 for s in s { println!("{} {}",s.0,s.1); }
}
