//! What Cognito's `triggerSource` means: a sign-in, a sign-up, a change, or nothing that UserHub should be told.

/// Longest `triggerSource` that is logged, in bytes. AWS's longest has 46.
const SOURCE_MAX: usize = 64;

/// The triggers that fire before a sign-in, or for something else. The function should be on none of them. AWS spells two of
/// them in two ways.
const OTHER_TRIGGERS: [&str; 12] = [
    "PreAuthentication_",
    "PreSignUp_",
    "DefineAuthChallenge_",
    "CreateAuthChallenge_",
    "VerifyAuthChallengeResponse_",
    "VerifyAuthChallenge_",
    "UserMigration_",
    "CustomMessage_",
    "CustomEmailSender_",
    "CustomSMSSender_",
    "CustomSmsSender_",
    "InboundFederation_",
];

/// What happened to a user, in UserHub's words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum EventType {
    /// `SIGNIN`.
    SignIn,
    /// `SIGNUP`.
    SignUp,
    /// `CHANGED`.
    Changed,
}

impl EventType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::SignIn, Self::SignUp, Self::Changed];

    /// The name in UserHub's API, in messages and in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SignIn => "SIGNIN",
            Self::SignUp => "SIGNUP",
            Self::Changed => "CHANGED",
        }
    }
}

/// What UserHub should be told of an event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Meaning {
    /// Something happened to a user.
    Report(EventType),
    /// Nothing happened, such as when tokens are refreshed.
    Nothing,
    /// Nothing has happened yet: the function is on a trigger that it should not be on.
    WrongTrigger,
}

/// What a `triggerSource` means. One that is unknown or empty is a sign-in, as in UserHub's guide.
#[must_use]
pub fn meaning(source: &str) -> Meaning {
    match source {
        "PostConfirmation_ConfirmSignUp" => Meaning::Report(EventType::SignUp), // a federated user's first sign-in too
        "PostConfirmation_ConfirmForgotPassword" => Meaning::Report(EventType::Changed), // nobody signs in
        "TokenGeneration_HostedAuth" => Meaning::Report(EventType::SignIn),
        _ if source.starts_with("TokenGeneration_") => Meaning::Nothing,
        _ if OTHER_TRIGGERS.iter().any(|trigger| source.starts_with(trigger)) => Meaning::WrongTrigger,
        _ => Meaning::Report(EventType::SignIn),
    }
}

/// Whether the text has the form of a source: letters, one underscore, letters. Only then it is logged, so that nothing else
/// of an event gets into the log, and a source that AWS adds does.
#[must_use]
pub fn is_source(text: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic());
    text.len() <= SOURCE_MAX
        && text.split_once('_').is_some_and(|(trigger, action)| is_word(trigger) && is_word(action))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_sign_ins_sign_ups_and_changes() {
        for (source, event_type) in [
            ("PostAuthentication_Authentication", EventType::SignIn),
            ("PostAuthentication_SomethingNew", EventType::SignIn),
            ("PostConfirmation_ConfirmSignUp", EventType::SignUp),
            ("PostConfirmation_ConfirmForgotPassword", EventType::Changed),
            ("PostConfirmation_SomethingNew", EventType::SignIn),
            ("TokenGeneration_HostedAuth", EventType::SignIn),
            ("SomethingNew_Authentication", EventType::SignIn),
            ("postconfirmation_confirmsignup", EventType::SignIn),
            ("", EventType::SignIn),
        ] {
            assert_eq!(meaning(source), Meaning::Report(event_type), "{source:?}");
        }
    }

    #[test]
    fn reports_nothing_else() {
        for source in ["RefreshTokens", "Authentication", "ClientCredentials", "NewPasswordChallenge", "SomethingNew"] {
            assert_eq!(meaning(&format!("TokenGeneration_{source}")), Meaning::Nothing);
        }
        for trigger in OTHER_TRIGGERS {
            assert_eq!(meaning(&format!("{trigger}SomethingNew")), Meaning::WrongTrigger);
        }
    }

    #[test]
    fn knows_a_source_by_its_form() {
        let longest = format!("{}_{}", "a".repeat(32), "b".repeat(31));
        for source in ["PostAuthentication_Authentication", "CustomSMSSender_SignUp", "New_Thing", "a_b", &longest] {
            assert!(is_source(source), "{source}");
        }
        let too_long = format!("{longest}b");
        for text in ["", "_", "a_", "_b", "ab", "a_b_c", "a_b2", "a_b ", "a_é", "sample.user@example.com", &too_long] {
            assert!(!is_source(text), "{text}");
        }
    }
}
